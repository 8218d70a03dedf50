// Refreshes what changes every two seconds, and leaves alone what a person is filling in.
const seconds = 2;

async function refresh() {
  const answer = await fetch("/").catch(() => null);
  document.body.classList.toggle("stale", !answer?.ok);
  if (answer?.ok) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = page.title;
    for (const part of document.querySelectorAll("[data-live]")) {
      part.replaceWith(page.querySelector(`[data-live="${part.dataset.live}"]`));
    }
  }
  setTimeout(refresh, seconds * 1000);
}

setTimeout(refresh, seconds * 1000);
