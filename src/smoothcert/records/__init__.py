"""Certificate rows: appended as they are finished, resumed after a kill, read by anyone.

A certificate file is tab-separated text with one header line. Its first six columns are the
field's own (`idx label predict radius correct time`), so that published analysis scripts read
it. Beside it lies `<name>.settings.json`: which configuration the rows belong to.
"""

from smoothcert.records.atomic import write_atomically
from smoothcert.records.files import CertificateFile, read_settings, settings_path
from smoothcert.records.locks import FolderLock
from smoothcert.records.logs import FIELD_COLUMNS, is_field_log, read_field_log
from smoothcert.records.parts import absorb_parts, part_path
from smoothcert.records.reading import read_certificates
from smoothcert.records.rows import COLUMNS, CertificateRow
from smoothcert.records.shards import Shard, merge_shards

__all__ = [
    "COLUMNS",
    "FIELD_COLUMNS",
    "CertificateFile",
    "CertificateRow",
    "FolderLock",
    "Shard",
    "absorb_parts",
    "is_field_log",
    "merge_shards",
    "part_path",
    "read_certificates",
    "read_field_log",
    "read_settings",
    "settings_path",
    "write_atomically",
]
