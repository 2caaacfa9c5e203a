"""A test's own certificate authority, which writes files."""

from __future__ import annotations

import os
from pathlib import Path

import trustme


class Authority:
    """A certificate authority. `ca` is the file of its certificate; `issue` makes further certificates."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._made = trustme.CA()
        self.ca = folder / "ca.pem"
        self._made.cert_pem.write_to_path(self.ca)

    def issue(self, *names: str, common_name: str | None = None, owner: dict[str, int] | None = None) -> tuple[Path, Path]:
        """Issues a certificate for the hosts `names`; returns its file and its key's file. Only `owner` may read the key."""
        made = self._made.issue_cert(*names, common_name=common_name)
        certificate, key = (self._folder / f"{common_name or names[0]}.{kind}" for kind in ("pem", "key"))
        certificate.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        key.touch(mode=0o600)
        key.write_bytes(made.private_key_pem.bytes())
        if owner:
            os.chown(key, owner["user"], owner["group"])
        return certificate, key
