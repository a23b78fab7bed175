"""`python -m eager_reader`: a model server that reads every body on its event loop.

What a test compares ours with, which reads long ones beside it.
"""

from backends import bodies
from backends.__main__ import main

if __name__ == "__main__":
    vars(bodies)["LONG_BODY"] = 1 << 40
    main()
