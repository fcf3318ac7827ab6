def draining() -> bool:
    return False
