def stop_requested() -> bool:
    return False
