"""`python -m lora_ns`."""

from lora_ns.cli.app import main

if __name__ == "__main__":
    main()
