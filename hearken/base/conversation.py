"""What a simulated user sends: a conversation, as the chat API takes it."""

from typing import TypeAlias

Message: TypeAlias = dict[str, str]
Conversation: TypeAlias = list[Message]
"""Messages with role and content; the last one is the user's."""


def turn(role: str, content: str) -> Message:
    """One message."""
    return {"role": role, "content": content}


def asked(question: str) -> Conversation:
    """A conversation that begins with a question."""
    return [turn("user", question)]


def shown(conversation: Conversation) -> str:
    """A conversation as people read it: a lone question as it is, else every message with its role."""
    if len(conversation) == 1:
        return conversation[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in conversation)


def last_question(conversation: Conversation) -> str:
    """What the user said last."""
    return conversation[-1]["content"]
