"""A server's list of its models, read: which of them may answer a chat now.

In: the JSON of GET /models. Out: names, and how long their contexts are. Left out are models for
embeddings, speech or pictures and those that are not loaded, by whatever an entry says of itself;
where nothing else is left, all are names. Raises what a list of another shape makes of code that
reads it.
"""

import re
from collections.abc import Mapping
from typing import Any

NO_CHAT = re.compile(
    r"embed|rerank|\b(?:bge|gte|e5|minilm|whisper|clip|dall-e|sdxl|flux|image|bark|kokoro)\b|tts\b"
    r"|moderation|transcri|\bspeech(?!less)|diffusion|colbert|mpnet|paraphrase|sentence|siglip"
    r"|feature-extraction",
    re.IGNORECASE,
)
# What servers call an entry's kind, and whether it is loaded.
KINDS = ("type", "object_type", "object", "model_type", "kind", "mode", "task", "pipeline_tag")
STATES = ("status", "state", "loaded", "active")
# Tokens of its context: as it is loaded, of vLLM, Groq, OpenRouter and Together, Mistral.
CONTEXTS = (
    *("loaded_context_length", "max_model_len", "context_window", "context_length"),
    "max_context_length",
)
NOT_NOW = ("unloaded", "not-loaded", "not_loaded", "sleeping", "failed", "false")


def models_in(served: Any) -> dict[str, int | None]:
    """{name: tokens of its context, where the list says so} of the models in a list, those for a
    chat if there are any.
    """
    if isinstance(served, Mapping):  # Together's is a bare list; an empty one may be null
        served = served["data"] if "data" in served else served["models"]
    if not isinstance(served, list | None):
        raise TypeError
    models = [_with_id(model) for model in served or []]
    chosen = [model for model in models if is_for_chat(model)] or models
    return {model["id"]: _context_of(model) for model in chosen}


def _context_of(model: Mapping[str, Any]) -> int | None:
    told = (model.get(name) for name in CONTEXTS)
    return next((tokens for tokens in told if type(tokens) is int and tokens > 0), None)


def _with_id(model: Any) -> Mapping[str, Any]:
    """An entry of a list of models under its name, which some servers call so, or give alone."""
    if isinstance(model, str):
        return {"id": model}
    return model if "id" in model else {**model, "id": model["name"]}


def is_for_chat(model: Mapping[str, Any]) -> bool:
    """Whether an entry of a server's list may answer a chat now: not a model for embeddings, speech
    or pictures, nor one that is not loaded.
    """
    states = [model.get(name) for name in STATES]
    states = [state.get("value") if isinstance(state, Mapping) else state for state in states]
    can = model.get("capabilities")
    if isinstance(can, Mapping):  # Mistral's
        states.append(can.get("completion_chat"))
    about = [model["id"], *(model.get(name) for name in KINDS)]
    if isinstance(can, list) and not re.search("complet|chat|generat", str(can)):
        about += can
    return not (
        any(NO_CHAT.search(str(each or "")) for each in about)
        or any(str(state).casefold() in NOT_NOW for state in states)
        or bool(model.get("archived"))
    )
