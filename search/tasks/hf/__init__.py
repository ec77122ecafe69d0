"""The task `hf`: a network of Hugging Face transformers, from a folder or the hub, judged on the user's text, pairs, images or speech."""
