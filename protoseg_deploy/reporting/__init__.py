"""Results for people: pictures side by side."""
