"""Sign-up, login and what guards them: allauth and axes made to fit this project's Users."""
