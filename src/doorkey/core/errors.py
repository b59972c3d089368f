"""
The exceptions of doorkey, one tree.

::

    DoorkeyError
    ├── ConfigurationError (ValueError)     refused when built; the message says what to write instead
    │   ├── InvalidPermission
    │   ├── InvalidNetwork
    │   ├── InvalidAddress
    │   ├── InvalidPolicy
    │   ├── InvalidProfile
    │   ├── InvalidSecret
    │   └── InvalidURL
    ├── MalformedCredentials (ValueError)   an Authorization field that is not what it should be
    ├── MalformedToken (ValueError)         a text that is no token of this profile
    ├── StoreError
    │   ├── StoreUnavailable                cannot be asked now; try again
    │   ├── UnreadableRecord                stored, but not understood; grants nothing
    │   ├── UnusableStore                   missing, of another schema, not a store, unsafe file mode
    │   ├── ReadOnlyStore
    │   └── Conflict                        somebody else changed it first
    └── KeyringError                        a lifecycle verb that does not apply
        ├── NotFound
        ├── NotApproved
        ├── KeyRevoked
        ├── KeyExpired
        ├── RollPending
        └── AlreadyRevealed

No message carries more of a token than its hint, nor a digest, nor a secret.
"""


class DoorkeyError(Exception):
    """Whatever doorkey raises on purpose."""


class ConfigurationError(DoorkeyError, ValueError):
    """A value that the operator or developer wrote is refused when it is built, not discovered when it is used."""


class InvalidPermission(ConfigurationError):
    """Not a permission, or a set of them that means nothing."""


class InvalidNetwork(ConfigurationError):
    """Not an IPv4 or IPv6 block in CIDR notation."""


class InvalidAddress(ConfigurationError):
    """Not a textual IPv4 or IPv6 address."""


class InvalidPolicy(ConfigurationError):
    """A rule, or a table of rules, that could be read in two ways."""


class InvalidProfile(ConfigurationError):
    """A profile whose prefixes, realm or other data cannot be used."""


class InvalidSecret(ConfigurationError):
    """A master secret that is missing, unreadable, unsafe, or not the one that the store knows."""


class InvalidURL(ConfigurationError):
    """A store URL that names no store."""


class MalformedCredentials(DoorkeyError, ValueError):
    """An ``Authorization`` field value that is not ``Basic`` or ``Bearer`` credentials of the expected form."""


class MalformedToken(DoorkeyError, ValueError):
    """A text that is no token of this profile. It carries no part of the text."""


class StoreError(DoorkeyError):
    """Something about the store."""


class StoreUnavailable(StoreError):
    """The store cannot be asked at the moment: busy, down, out of reach. A verdict is then ``Unavailable``."""


class UnreadableRecord(StoreError):
    """A stored row that cannot be understood, or that disagrees with itself. It grants nothing."""


class UnusableStore(StoreError):
    """There is no store at that place, or one that this version must not touch."""


class ReadOnlyStore(StoreError):
    """The store refuses changes: its file, its server or its operator says so."""


class Conflict(StoreError):
    """The version that a change was based on is no longer the stored one. Nothing was written."""


class KeyringError(DoorkeyError):
    """A verb of the lifecycle that does not apply to this key or workspace now."""


class NotFound(KeyringError):
    """No workspace or key has this id."""


class NotApproved(KeyringError):
    """Live keys need an approved workspace."""


class KeyRevoked(KeyringError):
    """The key is revoked, and nothing is ever un-revoked."""


class KeyExpired(KeyringError):
    """The key's expiry is over. A later one (``set_expiry``) makes it usable again."""


class RollPending(KeyringError):
    """A predecessor still lives in its grace. End the grace, or roll with a grace of 0."""


class AlreadyRevealed(KeyringError):
    """A live secret is seen once, and that was before. Roll the key to get a new token."""
