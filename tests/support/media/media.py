"""Load one media object directly, for tests that check the image."""

from PIL import Image

from common.records import Media
from common.spec.models import MediaBounds
from workers.media.files import MediaAccess
from workers.media.reader import open_media

AS_IS = MediaBounds()


def load_image(media: Media, access: MediaAccess, bounds: MediaBounds = AS_IS) -> Image.Image:
    """Return an image. Raise ``SampleError``."""
    (image,) = open_media(media, access, bounds).decode()
    return image
