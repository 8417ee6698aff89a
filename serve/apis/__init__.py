"""APIs beside OpenAI's chats, translated to them: OpenAI's Responses, and Anthropic's Messages."""
