"""Features of flights that are not expressions."""


def days_to_holiday() -> None:
    """Days to the nearest holiday."""
