"""Ciphers of OpenSSL's libcrypto, which Python's own ssl module needs and so is there: what a kernel's are held against."""

import ctypes

_SET_IV_LENGTH, _GET_TAG, _SET_TAG = 0x9, 0x10, 0x11
TAG = 16
_library = None


def _crypto():
    """The library, with the types of what is called."""
    global _library
    if _library is None:
        library = ctypes.CDLL("libcrypto.so.3")
        pointer, number = ctypes.c_void_p, ctypes.c_int
        for name, result, arguments in (
            ("EVP_CIPHER_fetch", pointer, (pointer, ctypes.c_char_p, pointer)),
            ("EVP_CIPHER_free", None, (pointer,)),
            ("EVP_CIPHER_CTX_new", pointer, ()),
            ("EVP_CIPHER_CTX_free", None, (pointer,)),
            ("EVP_CIPHER_CTX_ctrl", number, (pointer, number, number, pointer)),
            ("EVP_CIPHER_CTX_set_padding", number, (pointer, number)),
            ("EVP_CipherInit_ex", number, (pointer, pointer, pointer, pointer, pointer, number)),
            ("EVP_CipherUpdate", number, (pointer, pointer, ctypes.POINTER(number), pointer, number)),
            ("EVP_CipherFinal_ex", number, (pointer, pointer, ctypes.POINTER(number))),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        _library = library
    return _library


def _must(done, what):
    if not done:
        raise AssertionError(f"libcrypto: {what} failed")
    return done


def _run(name, key, iv, data, encrypt, aad=None, tag=None):
    """One message; returns (output, tag), the tag only where a cipher with authentication encrypts."""
    crypto = _crypto()
    cipher = _must(crypto.EVP_CIPHER_fetch(None, name.encode(), None), f"fetching {name}")
    context = crypto.EVP_CIPHER_CTX_new()
    data, done = bytes(data), ctypes.c_int(0)
    out = ctypes.create_string_buffer(len(data) + 32)
    try:
        _must(crypto.EVP_CipherInit_ex(context, cipher, None, None, None, int(encrypt)), "choosing the cipher")
        if aad is not None:
            _must(crypto.EVP_CIPHER_CTX_ctrl(context, _SET_IV_LENGTH, len(iv), None), "setting the IV's length")
        _must(crypto.EVP_CipherInit_ex(context, None, None, key, iv, int(encrypt)), "setting the key")
        crypto.EVP_CIPHER_CTX_set_padding(context, 0)
        if tag is not None:
            _must(crypto.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, len(tag), tag), "setting the tag")
        if aad:
            _must(crypto.EVP_CipherUpdate(context, None, ctypes.byref(done), aad, len(aad)), "adding the header")
        length = 0
        if data:
            _must(crypto.EVP_CipherUpdate(context, out, ctypes.byref(done), data, len(data)), "the cipher")
            length = done.value
        end = ctypes.byref(out, length)
        _must(crypto.EVP_CipherFinal_ex(context, end, ctypes.byref(done)), "the end (the tag does not fit the data)")
        length += done.value
        made = b""
        if aad is not None and encrypt:
            place = ctypes.create_string_buffer(TAG)
            _must(crypto.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, TAG, place), "getting the tag")
            made = place.raw
        return ctypes.string_at(out, length), made
    finally:
        crypto.EVP_CIPHER_CTX_free(context)
        crypto.EVP_CIPHER_free(cipher)


def encrypt(name, key, iv, data):
    """A cipher without authentication and without padding, as in AES-128-CBC."""
    return _run(name, key, iv, data, True)[0]


def seal(name, key, iv, aad, data):
    """Encrypt and authenticate, as in AES-128-GCM; the tag follows the data."""
    return b"".join(_run(name, key, iv, data, True, aad))


def unseal(name, key, iv, aad, data):
    """Decrypt what `seal` made.

    Raises:
        AssertionError: the tag does not fit.
    """
    return _run(name, key, iv, data[:-TAG], False, aad, data[-TAG:])[0]
