"""The keys in a backup: encrypted, since whoever has them can forge the audit trail."""

import base64
import json
import secrets
from typing import Any

from reckeeper.errors import ConfigError, DataError

# 128 MiB and some tenths of a second for each try of a passphrase.
_COST, _BLOCK, _PARALLEL = 2**17, 8, 1
_LARGEST_COST = 2**20


def seal(keys: dict[str, str], passphrase: str, *, context: str) -> str:
    """Encrypt keys by name with AES-GCM, under a key made of a passphrase by scrypt.

    Parameters
    ----------
    keys : dict
    passphrase : str
    context : str
        What they belong to; without the same they cannot be read.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    key = _key(passphrase, salt, cost=_COST, block=_BLOCK, parallel=_PARALLEL)
    sealed = AESGCM(key).encrypt(nonce, json.dumps(keys).encode(), context.encode())
    return json.dumps(
        {
            "cipher": "aes-256-gcm",
            "kdf": "scrypt",
            "n": _COST,
            "r": _BLOCK,
            "p": _PARALLEL,
            "salt": base64.b64encode(salt).decode(),
            "nonce": base64.b64encode(nonce).decode(),
            "sealed": base64.b64encode(sealed).decode(),
        }
    )


def unseal(text: str, passphrase: str, *, context: str) -> dict[str, str]:
    """Return the keys that `seal` was given.

    Raises
    ------
    ConfigError
        The passphrase is another one.
    DataError
        The text is not of `seal`.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        told: dict[str, Any] = json.loads(text)
        cost, block, parallel = int(told["n"]), int(told["r"]), int(told["p"])
        salt, nonce, sealed = (
            base64.b64decode(told[name], validate=True) for name in ("salt", "nonce", "sealed")
        )
        # Whoever made the file chose these.
        if not (1 < cost <= _LARGEST_COST and 0 < block <= 32 and 0 < parallel <= 16):
            raise ValueError("its costs are none that it is made with")
        key = _key(passphrase, salt, cost=cost, block=block, parallel=parallel)
        opened = AESGCM(key).decrypt(nonce, sealed, context.encode())
        return {str(name): str(value) for name, value in json.loads(opened).items()}
    except InvalidTag as exc:
        raise ConfigError(
            "The passphrase does not open the keys of this backup: nothing was restored. Give the "
            "one that it was made with (--passphrase-file or RECKEEPER_BACKUP_PASSPHRASE)."
        ) from exc
    except (
        ArithmeticError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as exc:
        raise DataError(f"The keys in the backup cannot be read: {exc}.") from exc


def _key(passphrase: str, salt: bytes, *, cost: int, block: int, parallel: int) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    kdf = Scrypt(salt=salt, length=32, n=cost, r=block, p=parallel)
    return kdf.derive(passphrase.encode())
