"""What templates say of times, ids and icons."""
