// The samples: pictures to click.

const buttons = [...document.querySelectorAll("#samples button")];

export function showSamples(selected) {
  for (const button of buttons) {
    button.setAttribute("aria-pressed", selected?.sample === `static/samples/${button.dataset.file}`);
  }
}

// Gives back the first one, if there are any.
export function watchSamples(onPick) {
  for (const button of buttons) {
    button.addEventListener("click", () => onPick(button.dataset.file, button.querySelector(".name").textContent));
  }
  return buttons[0];
}
