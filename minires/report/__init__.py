"""What reports share: figures of one style, and HTML pages that carry all they show."""
