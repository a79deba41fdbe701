"""Certificate rows: append them, resume after a kill, read them.

A certificate file is tab-separated text with one header line. Its first six columns are the
field's own (`idx label predict radius correct time`), so that published analysis scripts read
it. Next to it is `<name>.settings.json`, the configuration that the rows belong to.
"""

from smoothcert.records.atomic import write_atomically
from smoothcert.records.files import CertificateFile
from smoothcert.records.limits import Images
from smoothcert.records.locks import FolderLock, working_in
from smoothcert.records.logs import FIELD_COLUMNS, is_field_log, log_columns, read_field_log
from smoothcert.records.partial_files import absorb_parts, part_path
from smoothcert.records.reading import (
    CERTIFICATES,
    SUMMARY,
    read_certificates,
    read_settings,
    settings_path,
)
from smoothcert.records.rows import COLUMNS, CertificateRow
from smoothcert.records.run_folder import RunFolder
from smoothcert.records.safe_files import (
    check_links,
    lies_in,
    paths_matching,
    read_bounded,
    require_regular,
    run_left_by,
)
from smoothcert.records.shards import MergedCertificates, Shard, gather_shards

__all__ = [
    "CERTIFICATES",
    "COLUMNS",
    "FIELD_COLUMNS",
    "SUMMARY",
    "CertificateFile",
    "CertificateRow",
    "FolderLock",
    "Images",
    "MergedCertificates",
    "RunFolder",
    "Shard",
    "absorb_parts",
    "check_links",
    "gather_shards",
    "is_field_log",
    "lies_in",
    "log_columns",
    "part_path",
    "paths_matching",
    "read_bounded",
    "read_certificates",
    "read_field_log",
    "read_settings",
    "require_regular",
    "run_left_by",
    "settings_path",
    "working_in",
    "write_atomically",
]
