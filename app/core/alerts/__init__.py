"""Alerts: rules, what windows say to them, their course from raised to cleared, and the words.

In come readings of windows (`readings`) and answers of people; out come alerts to announce (`book`). What is open is a
function of all windows in their order. May not know how a verdict is found.
"""
