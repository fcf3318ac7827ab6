"""The guard in front of Daphne: it refuses early, holds back, and ends cleanly.

Daphne reads a whole body before any view runs, writes without looking whether the client reads,
answers its own errors in HTML and a crashed app only on a one-second timer. The classes here keep
Daphne's wiring (Twisted, the asyncio reactor, Autobahn) and replace those parts:

- ``channel``: one connection. Judges the headers before the body, closes what is half sent or
  never read.
- ``request``: one HTTP request. Its ASGI ``send`` waits while the client does not read, its
  ``receive`` reads the body piece by piece.
- ``websocket``: one WebSocket, with a frame cap and the same waiting.
- ``factory``: the open connections, counted by address.
- ``server``: listens on an inherited socket, watches all of them once a second, drains.
- ``rules``: what they decide by: limits, errors, the drain flag.

Per-connection timers are replaced by that one watch, and small answers are sent without a turn
through the event loop, which makes a guarded request cheaper than a bare Daphne one.

Only ``rules`` does without Twisted, so that views may ask it.
"""
