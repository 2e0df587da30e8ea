"""What the DICOM libraries log and warn of quotes elements, and elements name patients.

    keep_values_out()            # first thing in a process that reads images

pydicom warns of a value that breaks a rule by quoting it. A process of this project has no use for that: what matters
about a file is in its outcome.
"""

from __future__ import annotations

import logging
import warnings


class _WithoutValues(logging.Filter):
    """Keeps a record's level and place, not its text."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args, record.exc_info, record.exc_text = (
            f"{record.module}: something unusual",
            (),
            None,
            None,
        )
        return True


_FILTER = _WithoutValues()


def keep_values_out() -> None:
    """In this process, and for good: pydicom's log records say where, not what; its warnings are not shown."""
    from pydicom import config

    logging.getLogger("pydicom").addFilter(_FILTER)
    config.settings.reading_validation_mode = config.IGNORE
    warnings.simplefilter("ignore", UserWarning)  # pydicom's are of this kind, blamed on whoever called it
