"""Lets tests import their helpers, whatever the directory pytest starts in, and end by signals what they start."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# A signal that pytest was started to ignore, as by nohup or in the background of a shell script, its children would
# ignore, too; of one with a handler they have the default.
for _signal in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, lambda *_: None)
