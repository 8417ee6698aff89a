"""What became of a comment: the answer revised in its light, as a correction in the commenter's name, or
why not.

Both are events of one id, which follows from the comment's. A refusal is a retraction of that
correction: what was made of an earlier wording of the comment is taken back by it.
"""

from feedback.core.ids import vote_id

REFUSED = {
    "answer_gone": "the answer that it is about was not at hand any more",
    "not_kept": "the answer's text was not kept, or was erased",
    "no_revision": "the model that revises answers made nothing else of the answer",
    "not_better": "no revised answer was found that does what it asks for",
    "off_topic": "the revised answer left what the question is about",
    "brought_in": "the revised answer said what only the comment says; a correction is the way to say that",
    "withdrawn": "the comment was taken back",
}
"""Why nothing was made of a comment: a word for programs, and what people are told."""


def revision_id(tenant: str, rater: str, comment_id: str) -> str:
    """The id of what was made of a comment, which is the vote `comment_id` or stands in it."""
    return vote_id(tenant, rater, "revision", [(comment_id, 0)])
