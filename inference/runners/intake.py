"""From a chat request's contract to the Generations that answer it, or a refusal that says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inference.contracts.chat import ChatInput
from inference.runners.base import InvalidInput
from inference.runners.constraints import Constraints
from inference.runners.generation import Generation, Stem
from inference.runners.logprobs import MOST_TOP, LogprobLine
from inference.runners.parsed_answer import AnswerMaker
from inference.runners.prefix_cache import chain, chain_seed
from inference.runners.prompt import Prompt, PromptBuilder
from inference.runners.sampling import Choice, LogitProcessor, SamplingDefaults, penalties_for
from inference.runners.text import DetokenizerFactory
from inference.runners.vision import ImageReader

MOST_CHOICES = 128
MOST_IN_ALL = 1024
# of log probabilities in all choices together: some 32 MB of JSON, ten times that in memory
MOST_ENTRIES = 500_000
TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Tokens: of prompt and answer together, and in the vocabulary."""

    context: int
    vocabulary: int


class Intake:
    """Thread-safe: nothing in here changes after the start."""

    def __init__(
        self,
        prompts: PromptBuilder,
        detokenizers: DetokenizerFactory,
        answers: AnswerMaker,
        defaults: SamplingDefaults,
        bounds: Bounds,
        constraints: Constraints,
        images: ImageReader | None = None,
    ) -> None:
        """`defaults` are the model's own settings for what a request leaves open.

        `images` reads those of the messages, where the model takes any.
        """
        self._images = images
        self._prompts = prompts
        self._detokenizers = detokenizers
        self._answers = answers
        self._defaults = defaults
        self._bounds = bounds
        self._constraints = constraints

    def generations(self, request_id: str, chat: ChatInput, salt: str) -> list[Generation]:
        """All choices in order: those of the first prompt, then of the next. Raises InvalidInput.

        Templates and tokenises here, in the caller's thread.
        """
        self._check(chat)
        masks = self._constraints.maker(chat)
        made: list[Generation] = []
        for prompt in self._read(chat):
            limit = self._listed_limit(self._completion_limit(len(prompt.tokens), chat), chat)
            stem = Stem(chat.n - 1) if chat.n > 1 else None
            seed = chain_seed(salt, prompt.media.digest if prompt.media else b"")
            keys = chain(seed, prompt.tokens)
            made += [
                Generation(
                    request_id=request_id,
                    prompt=prompt.tokens,
                    limit=limit,
                    choice=Choice(chat.sampling, self._defaults, stream),
                    answer=self._answers(chat, prompt.tail),
                    processors=[*self._processors(chat, prompt.tokens), *masks(prompt.tail)],
                    open_ended=chat.max_tokens is None,
                    ignore_eos=chat.ignore_eos,
                    index=len(made) + stream,
                    stem=stem,
                    follows=stream > 0,
                    seed=seed,
                    keys=keys,
                    logprobs=self._logprobs(chat),
                    echo=prompt.echo,
                    media=prompt.media,
                )
                for stream in range(chat.n)
            ]
        return made

    def _processors(self, chat: ChatInput, prompt: Sequence[int]) -> list[LogitProcessor]:
        """Fresh processors for one choice, before its masks: penalties and biases."""
        return penalties_for(chat.sampling, self._defaults, prompt, chat.logit_bias)

    def _logprobs(self, chat: ChatInput) -> LogprobLine | None:
        if chat.top_logprobs is None:
            return None
        table = self._detokenizers
        return LogprobLine(chat.top_logprobs, shown=table.shown, named=table.named)

    def _read(self, chat: ChatInput) -> list[Prompt]:
        if not chat.prompts:
            return [self._conversation(chat)]
        return [self._read_prompt(prompt, echo=chat.echo) for prompt in chat.prompts]

    def _conversation(self, chat: ChatInput) -> Prompt:
        if chat.tools and self._answers.form.tools is None:
            raise InvalidInput("This model does not call tools", param="tools")
        images = self._images.open(chat.messages) if self._images else []
        prompt = self._prompts.build(
            chat.messages,
            context=self._bounds.context,
            tools=chat.tools if chat.tool_choice != "none" else (),
            template=chat.template,
        )
        if self._images is None or not images:
            return prompt
        tokens = self._images.expand(prompt.tokens, images)
        self._completion_limit(len(tokens), chat)  # before any work is spent on pixels
        return replace(prompt, tokens=tokens, media=self._images.read(tokens, images))

    def _read_prompt(self, prompt: str | list[int], *, echo: bool) -> Prompt:
        if isinstance(prompt, str):
            tokens = self._prompts.encode(prompt, context=self._bounds.context)
            return Prompt(tokens, echo=prompt if echo else "")
        if not prompt:
            raise InvalidInput("A prompt must not be empty", param="prompt")
        for token in prompt:
            self._check_token(token, "prompt")
        text = self._detokenizers.text(prompt) if echo else ""
        return Prompt(list(prompt), echo=text)

    def _check_token(self, token: int, param: str) -> None:
        whole = isinstance(token, int) and not isinstance(token, bool)
        if not whole or not 0 <= token < self._bounds.vocabulary:
            raise InvalidInput(
                f"{token!r} is no token of this model: its vocabulary has "
                f"{self._bounds.vocabulary} tokens, from 0.",
                param=param,
            )

    def _check(self, chat: ChatInput) -> None:
        if not 1 <= chat.n <= MOST_CHOICES:
            raise InvalidInput(f"n must be between 1 and {MOST_CHOICES}", param="n")
        if chat.top_logprobs is not None and not 0 <= chat.top_logprobs <= MOST_TOP:
            raise InvalidInput(
                f"top_logprobs must be between 0 and {MOST_TOP}", param="top_logprobs"
            )
        if chat.n * max(1, len(chat.prompts)) > MOST_IN_ALL:
            raise InvalidInput(
                f"All prompts together may have at most {MOST_IN_ALL} choices", param="n"
            )
        for token in chat.logit_bias:
            self._check_token(token, "logit_bias")

    def _listed_limit(self, limit: int, chat: ChatInput) -> int:
        """The limit, or less where nobody asked for it and each token brings log probabilities."""
        if chat.top_logprobs is None:
            return limit
        most = MOST_ENTRIES // (chat.n * max(1, len(chat.prompts)) * (1 + chat.top_logprobs))
        if limit > most and chat.max_tokens is not None:
            raise InvalidInput(
                f"With this n and these log probabilities max_tokens may be at most {most}",
                param="max_tokens",
            )
        return min(limit, most)

    def _completion_limit(self, prompt_tokens: int, chat: ChatInput) -> int:
        context, wished = self._bounds.context, chat.max_tokens
        param, subject = ("prompt", "prompt is") if chat.prompts else ("messages", "messages are")
        room = context - prompt_tokens
        if room < 1:
            raise InvalidInput(
                f"The {subject} {prompt_tokens} tokens long; this model's context length is "
                f"{context} tokens, the answer included.",
                code=TOO_LONG,
                param=param,
            )
        if wished is None:
            return room
        if wished < 1:
            raise InvalidInput("max_tokens must be at least 1", param="max_tokens")
        if wished > room:
            raise InvalidInput(
                f"The {subject} {prompt_tokens} tokens long and max_tokens is {wished}; "
                f"together they exceed this model's context length of {context} tokens.",
                code=TOO_LONG,
                param="max_tokens",
            )
        return wished
