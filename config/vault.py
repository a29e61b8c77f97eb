"""Settings of how providers' keys are kept."""

from typing import Self

from pydantic import BaseModel, SecretStr, model_validator

from config.access import SHORTEST_SIGNING, is_weak, secrets_of
from config.fields import setting

MAKE_ONE = (
    "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"
)


class VaultSettings(BaseModel):
    """How the keys of remote providers are kept."""

    encryption_key: SecretStr | None = setting(
        None,
        "ENCRYPTION_KEY",
        help="Encrypts the providers' keys that are kept in SQL; at least 32 bytes. A comma list "
        "rotates: the first encrypts, all decrypt.",
    )

    @model_validator(mode="after")
    def _cannot_be_guessed(self) -> Self:
        """Refuse what everybody knows or can try, whoever calls: a stolen database waits for it."""
        if any(map(is_weak, secrets_of(self.encryption_key))):
            raise ValueError(
                f"ENCRYPTION_KEY must have at least {SHORTEST_SIGNING} bytes and be no "
                "placeholder, each key of a list. Then store the providers' keys anew. Make one "
                f"with: {MAKE_ONE}"
            )
        return self
