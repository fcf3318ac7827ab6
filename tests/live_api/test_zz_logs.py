"""Last: what the processes logged while all that was sent to them."""

from __future__ import annotations

import re

from tests.live_api.envelope import CHAT, bearer, chat_body

SECRET = re.compile(r"csl_sk_[0-9A-Za-z]{30}")


def test_the_logs_hold_no_secret_no_prompt_and_no_traceback(site, bare):
    canary = "canary-in-a-prompt"
    secret = site.alpha["user_write"]
    bare.post(CHAT, json=chat_body(canary), headers=bearer(secret))
    bare.post(f"{CHAT}?key={secret}", json=chat_body(canary, n=0), headers=bearer(secret))
    bare.get(f"/openai/v1/models/{secret}", headers=bearer(secret))
    bare.get(f"/nowhere/{secret}?key={secret}")
    for log in sorted(site.live.var_dir.glob("*.log")):
        text = log.read_text(errors="replace")
        assert not SECRET.search(text), log.name
        assert canary not in text, log.name
        found = text.find("Traceback")
        assert found < 0, f"{log.name}: {text[found - 300 : found + 3000]}"
