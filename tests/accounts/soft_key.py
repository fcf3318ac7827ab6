"""A security key in software: what a browser and a key answer to WebAuthn's two questions."""

from __future__ import annotations

import hashlib
import json
import secrets
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from fido2 import cbor
from fido2.cose import ES256
from fido2.utils import websafe_encode

PRESENT, VERIFIED, ATTESTED = 0x01, 0x04, 0x40


class SoftKey:
    """One credential for one origin."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.id = secrets.token_bytes(32)
        self.uses = 0

    def create(self, options: dict) -> str:
        """The answer to `navigator.credentials.create`, as the form sends it."""
        public = cbor.encode(dict(ES256.from_cryptography_key(self.private.public_key())))
        attested = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + public
        data = self._data(options["publicKey"]["rp"]["id"], ATTESTED) + attested
        attestation = cbor.encode({"fmt": "none", "attStmt": {}, "authData": data})
        client = self._client("webauthn.create", options["publicKey"]["challenge"])
        return self._credential(
            {"attestationObject": websafe_encode(attestation), "transports": ["usb"]}, client
        )

    def get(self, options: dict) -> str:
        """The answer to `navigator.credentials.get`."""
        data = self._data(options["publicKey"]["rpId"], 0)
        client = self._client("webauthn.get", options["publicKey"]["challenge"])
        signed = data + hashlib.sha256(client).digest()
        signature = self.private.sign(signed, ec.ECDSA(SHA256()))
        return self._credential(
            {"authenticatorData": websafe_encode(data), "signature": websafe_encode(signature)},
            client,
        )

    def _data(self, rp_id: str, flags: int) -> bytes:
        assert rp_id == urlsplit(self.origin).hostname
        self.uses += 1
        head = hashlib.sha256(rp_id.encode()).digest() + bytes([PRESENT | VERIFIED | flags])
        return head + self.uses.to_bytes(4, "big")

    def _client(self, kind: str, challenge: str) -> bytes:
        return json.dumps(
            {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        ).encode()

    def _credential(self, response: dict, client: bytes) -> str:
        return json.dumps(
            {
                "type": "public-key",
                "id": websafe_encode(self.id),
                "rawId": websafe_encode(self.id),
                "authenticatorAttachment": "cross-platform",
                "response": {**response, "clientDataJSON": websafe_encode(client)},
                "clientExtensionResults": {"credProps": {"rk": False}},
            }
        )
