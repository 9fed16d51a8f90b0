"""The configuration: one frozen table, read once, with every default in `model`."""

from authz.settings.faults import SettingsError
from authz.settings.load import Configuration, load_settings
from authz.settings.model import Settings


__all__ = ["Configuration", "Settings", "SettingsError", "load_settings"]
