"""Answers of the OpenAI surface, as the API reference shows them."""

from __future__ import annotations

from rest_framework import serializers


class PromptDetailsSerializer(serializers.Serializer):
    """Of the prompt."""

    cached_tokens = serializers.IntegerField(help_text="Taken from the prefix cache")


class CompletionDetailsSerializer(serializers.Serializer):
    """Of the answer."""

    reasoning_tokens = serializers.IntegerField()


class UsageSerializer(serializers.Serializer):
    """Token counts of all choices."""

    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    prompt_tokens_details = PromptDetailsSerializer()
    completion_tokens_details = CompletionDetailsSerializer()


class CalledFunctionSerializer(serializers.Serializer):
    """What the model calls."""

    name = serializers.CharField()
    arguments = serializers.CharField(help_text="JSON")


class ToolCallSerializer(serializers.Serializer):
    """One call."""

    id = serializers.CharField()
    type = serializers.ChoiceField(choices=["function"])
    function = CalledFunctionSerializer()


class AssistantMessageSerializer(serializers.Serializer):
    """What the model says: text, tool calls, or both."""

    role = serializers.CharField()
    content = serializers.CharField(allow_null=True)
    reasoning_content = serializers.CharField(
        required=False, help_text="What it thought before, where it was asked to"
    )
    tool_calls = ToolCallSerializer(many=True, required=False)


class TopTokenSerializer(serializers.Serializer):
    """A token that was likely here."""

    token = serializers.CharField()
    logprob = serializers.FloatField()
    bytes = serializers.ListField(child=serializers.IntegerField(), allow_null=True)


class ChosenTokenSerializer(TopTokenSerializer):
    """The token that was chosen."""

    top_logprobs = TopTokenSerializer(many=True)


class LogprobsSerializer(serializers.Serializer):
    """Log probabilities of the answer's tokens."""

    content = ChosenTokenSerializer(many=True, allow_null=True)
    refusal = ChosenTokenSerializer(many=True, allow_null=True)


REASONS = ["stop", "length", "tool_calls"]


class ChoiceSerializer(serializers.Serializer):
    """One answer."""

    index = serializers.IntegerField()
    message = AssistantMessageSerializer()
    logprobs = LogprobsSerializer(allow_null=True)
    finish_reason = serializers.ChoiceField(choices=REASONS)


class ChatCompletionSerializer(serializers.Serializer):
    """OpenAI's chat.completion."""

    id = serializers.CharField()
    object = serializers.CharField()
    created = serializers.IntegerField()
    model = serializers.CharField()
    choices = ChoiceSerializer(many=True)
    usage = UsageSerializer()


class TextLogprobsSerializer(serializers.Serializer):
    """Log probabilities in the old form."""

    tokens = serializers.ListField(child=serializers.CharField())
    token_logprobs = serializers.ListField(child=serializers.FloatField())
    top_logprobs = serializers.ListField(
        child=serializers.DictField(child=serializers.FloatField())
    )
    text_offset = serializers.ListField(child=serializers.IntegerField())


class TextChoiceSerializer(serializers.Serializer):
    """One answer: prompt i's choice j has the index i * n + j."""

    index = serializers.IntegerField()
    text = serializers.CharField()
    logprobs = TextLogprobsSerializer(allow_null=True)
    finish_reason = serializers.ChoiceField(choices=REASONS)


class CompletionSerializer(serializers.Serializer):
    """OpenAI's text_completion."""

    id = serializers.CharField()
    object = serializers.CharField()
    created = serializers.IntegerField()
    model = serializers.CharField()
    choices = TextChoiceSerializer(many=True)
    usage = UsageSerializer()


class ModelSerializer(serializers.Serializer):
    """One model."""

    id = serializers.CharField()
    object = serializers.CharField()
    created = serializers.IntegerField()
    owned_by = serializers.CharField()


class ModelListSerializer(serializers.Serializer):
    """All models."""

    object = serializers.CharField()
    data = ModelSerializer(many=True)
