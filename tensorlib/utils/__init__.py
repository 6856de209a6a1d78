"""Helpers around training: `tensorlib.utils.data` feeds samples."""
