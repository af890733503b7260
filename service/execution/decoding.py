"""Decodes images into views that can run, in whatever thread calls it."""

import time
from collections.abc import Iterator

from registry.errors import BadImage
from registry.images import Large
from service.execution.delivery import Delivery
from service.execution.observer import Observer
from service.execution.queue import Queue, View
from service.execution.work import Answer, Image
from service.tracebacks import drop_tracebacks


class Decoder:
    """Decodes images, makes their views, and queues these to be run."""

    def __init__(
        self, ready: Queue, delivery: Delivery, observer: Observer, together: bool
    ) -> None:
        """`ready` gets the views, `delivery` the errors of bad images; `together`: all views of an
        image are queued at once, and otherwise each as soon as it is made."""
        self._ready = ready
        self._delivery = delivery
        self._observer = observer
        self._together = together

    def decode(self, image: Image) -> None:
        """Decodes an image and queues its views to be run.

        Raises:
            Large: it is, and this thread leaves such images; nothing was done.
        """
        views = self._views(image)
        if self._together:
            self._add_together(list(views))
        else:
            for view in views:
                self._add(view)

    def _add_together(self, views: list[View]) -> None:
        for view in views:
            view.ready_at = views[-1].ready_at  # decoding the others does not count as queueing
        self._add(*views)

    def _add(self, *views: View) -> None:
        for view in views:
            view.image.ready_at = view.image.ready_at or view.ready_at
        self._ready.add(*views)

    def _views(self, image: Image) -> Iterator[View]:
        """The views of an image, as they are made; none if it is bad: then the error is its
        answer."""
        began = image.decode_at = time.perf_counter()
        image.queue_s = waited_s = began - image.work.queued_at
        try:
            for number, pixels in enumerate(image.work.decode(image.index)):
                ended = time.perf_counter()
                image.decode_s += ended - began
                yield View(image, number, pixels[None], ended, waited_s)
                began = time.perf_counter()
        except Large:
            image.decode_at = image.queue_s = 0  # it goes on waiting
            raise
        except BadImage as error:
            drop_tracebacks(error)  # they lead to the image, which leads to its answer
            self._delivery.finish([(image, Answer(error=error))])
        except Exception as error:
            image.work.fail(error)
        else:
            if image.work.is_awaited:
                self._observer.decoded(image.decode_s)
