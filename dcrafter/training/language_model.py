"""Language models by name: behind any endpoint with OpenAI's interface, or of transformers on this machine."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from dcrafter.errors import UsageError, WeightsError
from dcrafter.text import error_text

LanguageModel = Callable[[str], str]
"""A prompt → its answer."""

KEY = "OPENAI_API_KEY"
MAX_TOKENS = 300
TRIES = 5
TIMEOUT = 120.0  # seconds for an answer


def open_endpoint(url: str, model: str, *, sleep: Callable[[float], None] = time.sleep) -> LanguageModel:
    """A model behind an endpoint, such as `http://127.0.0.1:11434/v1`; its key is in `OPENAI_API_KEY`.

    Args:
        url: what `/chat/completions` is under.
        model: its name there.
        sleep: waits before another try, where the endpoint is busy or out of reach.
    """
    address = f"{url.rstrip('/')}/chat/completions"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"

    def ask(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        asked = {"model": model, "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS}
        request = urllib.request.Request(address, json.dumps(asked).encode(), headers)
        for left in reversed(range(TRIES)):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                    return str(json.load(answer)["choices"][0]["message"]["content"] or "")
            except urllib.error.HTTPError as error:
                if not left or not (error.code in (408, 429) or error.code >= 500):
                    raise _refused(url, model, f"HTTP {error.code} {error.reason}") from error
                wait = _seconds(error.headers.get("Retry-After"))
            except OSError as error:
                if not left:
                    raise _refused(url, model, error_text(getattr(error, "reason", error))) from error
                wait = None
            except (ValueError, KeyError, IndexError, TypeError) as error:
                raise _refused(url, model, "its answer is not as OpenAI's") from error
            sleep(2.0 ** (TRIES - left) if wait is None else wait)
        raise AssertionError("the last try returns or raises")

    return ask


def _seconds(text: str | None) -> float | None:
    return min(float(text), TIMEOUT) if text and text.isdecimal() else None


def _refused(url: str, model: str, reason: str) -> UsageError:
    return UsageError(f"{model} at {url} gives no answer ({reason})", f"Check --endpoint, --model and ${KEY}")


def open_local(name: str, device: str = "cpu", *, offline: bool = False) -> LanguageModel:
    """A causal language model of transformers, by its hub name or folder, decoded greedily.

    Args:
        name: of the model.
        device: where it runs.
        offline: download nothing.

    Raises:
        WeightsError: it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": offline or os.path.isdir(name), "trust_remote_code": False}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(name, **options)
        model = model.eval().to(device)
    except Exception as error:  # transformers raises many kinds
        advice = "Give a causal language model of transformers, or --endpoint"
        raise WeightsError(f"{name} is no usable language model ({error_text(error)})", advice) from error

    @torch.inference_mode()
    def ask(prompt: str) -> str:
        if tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt}]
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(prompt, return_tensors="pt").to(device)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        found = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=padding)
        return str(tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return ask
