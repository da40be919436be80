"""The library's one warning class."""


class PrivacyWarning(UserWarning):
    """Something allowed that may expose the private members."""
