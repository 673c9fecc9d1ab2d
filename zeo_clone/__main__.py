"""``python -m zeo_clone``: the command zeo-clone."""
import sys

from zeo_clone.commands.main import main

if __name__ == '__main__':
    sys.exit(main())
