"""What a request is to continue: texts, token ids and chats as token ids."""
