"""placeholder until the hosting branch is merged"""


def want_model(pk: int) -> bool:
    return True


def availabilities(specs):
    return {s.pk: "online" for s in specs}
