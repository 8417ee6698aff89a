"""A product's thumbs: ask for a user, and pass on what the user thought of the answer.

python examples/thumbs.py http://localhost:8000 ada up "Where is my parcel?"
"""

import sys

from openai import OpenAI

from hearken.client import FeedbackClient, thumbs

url, user, thumb, question = sys.argv[1:]
messages = [{"role": "user", "content": question}]
answer = OpenAI(base_url=f"{url}/v1", api_key="none").chat.completions.create(
    model="hearken", user=user, messages=messages
)
print(answer.choices[0].message.content)
with FeedbackClient(url) as service:
    receipt = service.send(thumbs(answer.id, thumb, user=user))
print(f"durable; what becomes of it: {url}/v1/feedback/{receipt['id']}")
