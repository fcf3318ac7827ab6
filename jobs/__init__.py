"""Jobs, their lifecycle and the Runners that hold leases on them."""
