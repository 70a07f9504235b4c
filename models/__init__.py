"""What turns features into scores, and how a version is made, stored, verified and promoted."""
