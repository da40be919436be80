"""The warning class of this package."""


class PrivacyWarning(UserWarning):
    """Warns about something that is allowed but may expose the private members."""
