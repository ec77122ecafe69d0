"""A Llama of 10.5 M weights that is trained here, on the documentation that Python ships."""
