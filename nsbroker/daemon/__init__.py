"""The broker: who asks (`peer`), what they may (`configuration`, `policy`), what they mean (`resolve`), the verbs
(`broker`), the connections (`server`, `limits`, `listen`), what is recorded (`audit`), and the whole (`service`).
"""
