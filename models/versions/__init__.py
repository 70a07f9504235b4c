"""What a version is, where it is kept, whether it may serve, and when it did.

In come artifacts and manifests, trusted in nothing; out come verified versions and the timeline of promotions.
"""
