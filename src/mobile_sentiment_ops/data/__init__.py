"""Reviews arrive: parsing, cleaning, validation, language, duplicates, splits, the demo world."""
