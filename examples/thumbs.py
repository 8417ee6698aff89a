"""A product's thumbs: ask for a user, and pass on what the user thought of the answer.

python examples/thumbs.py http://localhost:8000/v1 ada down "Where is my parcel?"
"""

import sys

from openai import OpenAI

from hearken.client import Hearken

url, user, thumb, question = sys.argv[1:]
client = OpenAI(base_url=url, api_key="none")
hearken = Hearken(base_url=client.base_url)

answer = client.chat.completions.create(
    model="hearken", user=user, messages=[{"role": "user", "content": question}]
)
print(answer.choices[0].message.content)
feedback = hearken.feedback(answer, user=user)
vote = feedback.up(reason="helpful") if thumb == "up" else feedback.down(reason="incomplete")
print(f"durable as {vote['id']}. {hearken.receipt(vote)['sentence']}")
