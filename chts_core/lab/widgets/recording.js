// Moves a recording (recording.py): the controls choose a state, and its picture and its sentence are shown.
(() => {
  const root = document.currentScript.parentElement;
  const { labels, sentences } = JSON.parse(root.querySelector('[type="application/json"]').textContent);
  const controls = [...root.querySelectorAll("select, input")];
  const sheets = [...root.querySelectorAll("img")];
  const sentence = root.querySelector(".sentence");
  const button = root.querySelector("button");

  const show = () => {
    let state = 0; // in the order of itertools.product: the last control changes fastest
    controls.forEach((control, i) => {
      const chosen = control.type === "range" ? Number(control.value) : control.selectedIndex;
      state = state * labels[i].length + chosen;
      if (control.type === "range") {
        control.nextElementSibling.textContent = labels[i][chosen];
        control.setAttribute("aria-valuetext", labels[i][chosen]);
      }
    });
    let row = state;
    for (const sheet of sheets) {
      const frames = Number(sheet.dataset.frames);
      sheet.hidden = row < 0 || row >= frames;
      if (!sheet.hidden) {
        sheet.style.transform = `translateY(-${(100 * row) / frames}%)`;
        sheet.alt = sentences[state];
      }
      row -= frames;
    }
    sentence.textContent = sentences[state];
  };

  let timer;
  const pause = () => {
    clearInterval(timer);
    timer = undefined;
    button.textContent = "Play";
  };
  button?.addEventListener("click", () => {
    if (timer) return pause();
    const slider = button.parentElement.querySelector("input");
    if (slider.value === slider.max) slider.value = 0;
    button.textContent = "Pause";
    show();
    timer = setInterval(() => {
      slider.stepUp();
      show();
      if (slider.value === slider.max) pause();
    }, 800);
  });

  controls.forEach((control) => control.addEventListener("input", show));
  show(); // a browser may keep the controls of an earlier visit
})();
