"""What changes keys: the keyring, the master secrets that it seals and digests with, and the audit of every change."""
