"""``python -m proxflow``, which torchrun starts in several processes."""

from proxflow.cli import main

if __name__ == "__main__":
    main()
