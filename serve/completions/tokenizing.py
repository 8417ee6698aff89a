"""POST /tokenize, vLLM's: the tokens of a text, or of a chat as the model's template writes it.

It is also what counts a prompt's tokens for POST /v1/messages/count_tokens.
"""

from typing import Any

from serve.completions.text import check_text
from serve.generation.request_schemas import CHAT
from serve.generation.requests import ChatRequest, check_chat
from serve.http.bodies import parse_object
from serve.http.errors import BadRequest
from serve.schemas.validator import check
from serve.schemas.words import FLAG, FREE, STRING, or_null, record

Json = dict[str, Any]

PATH = "/tokenize"  # here, and at the engine

TOKENIZE: Json = record(
    [],
    model=STRING,
    prompt=STRING | {"minLength": 1},
    messages=CHAT["properties"]["messages"],
    tools=CHAT["properties"]["tools"],
    chat_template_kwargs=or_null(FREE),
    add_generation_prompt=FLAG,
    continue_final_message=FLAG,
    add_special_tokens=FLAG,
    return_token_strs=or_null(FLAG),
)
_OF_PROMPT = ("add_special_tokens", "return_token_strs")
_OF_CHAT = (*_OF_PROMPT, "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")


def parse_tokenize(raw: bytes, model_name: str) -> tuple[ChatRequest, Json]:
    """What is asked about, as a request for an answer to it, and what the engine is to be asked.

    Raises BadRequest naming the field, NotFound for another model.
    """
    body = {"model": model_name} | parse_object(raw)
    check(body, TOKENIZE)
    if ("prompt" in body) == ("messages" in body):
        raise BadRequest("Send either prompt or messages.", param="messages")
    if "prompt" in body:
        asked: ChatRequest = check_text({"model": body["model"], "prompt": body["prompt"]}, model_name)
        return asked, _question(asked.body, body, "prompt", _OF_PROMPT)
    asked = check_chat(
        {name: body[name] for name in ("model", "messages", "tools") if name in body}, model_name
    )
    return asked, _question(asked.body, body, "messages", _OF_CHAT)


def question_of(asked: ChatRequest) -> Json:
    """What the engine is to be asked about the prompt of a chat."""
    return _question(asked.body, asked.body, "messages", _OF_CHAT)


def _question(checked: Json, body: Json, prompt: str, fields: tuple[str, ...]) -> Json:
    sent = {name: body[name] for name in fields if body.get(name) is not None}
    if "tools" not in checked:
        sent.pop("tools", None)  # an empty list
    return {prompt: checked[prompt], **sent}
