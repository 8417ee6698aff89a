"""What to learn: batches, reward model, PPO, SFT, checkpoints and the loop. The only room with torch."""

import logging

# peft imports bitsandbytes where it is there, and that warns of a missing kernel that nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
