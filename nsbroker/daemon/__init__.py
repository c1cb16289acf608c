"""The broker: who asks (`peer`), what they may (`configuration`, `policy`), what they mean (`resolve`), the verbs
(`inquiry`, `broker`), the connections (`server`, `limits`, `closing`, `listen`), what is recorded (`audit`), and the
whole (`service`).
"""
