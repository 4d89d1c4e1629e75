"""The words of a study in Vietnamese.

Terms are those of the Vietnamese edition of Dive into Deep Learning; see
``docs/vi/glossary.md``.
"""

VIETNAMESE = {
    # -- mạng và nghiên cứu
    "kind.plain": "thường",
    "kind.residual": "phần dư",
    "network": "mạng {kind} {depth} tầng",
    "network.seed": "{network}, seed {seed}",
    "title.both": "Mạng thường và mạng phần dư: {dataset}",
    "title.plain": "Mạng thường: {dataset}",
    "title.residual": "Mạng phần dư: {dataset}",
    "epochs.one": "{count} epoch",
    "epochs.many": "{count} epoch",
    "seeds.one": "một seed",
    "seeds.mean": "trung bình trên {counts} seed",
    "and": " và ",
    "cut short": "{network} (xong {done} trong {epochs} epoch)",
    "not started": "{network} (chưa bắt đầu)",
    "report": "Báo cáo: {path}",
    # -- các con số cho thấy điều gì
    "nothing": "Chưa có lượt huấn luyện nào kết thúc nên chưa có gì để so sánh.",
    "alone": (
        "{network} kết thúc với lỗi huấn luyện cuối {train}% và lỗi kiểm tra cuối {test}% "
        "({seeds})."
    ),
    "comparison": (
        "Mạng thường {depth} tầng kết thúc với lỗi huấn luyện cuối {plain}%, mạng phần dư {depth} "
        "tầng với {residual}%: cùng một công thức huấn luyện, {verdict} ({note})."
    ),
    "worse": "mạng thường kém hơn {gap} điểm phần trăm",
    "better": "mạng thường tốt hơn {gap} điểm phần trăm",
    "equal": "hai loại mạng bằng nhau khi làm tròn đến một phần mười điểm phần trăm",
    "apart": "khoảng giá trị của hai loại mạng tách hẳn nhau",
    "overlap": "khoảng giá trị của hai loại mạng có phần chồng lên nhau",
    "trend.first": "Lỗi huấn luyện cuối của các mạng {kind} {moves}",
    "trend.next": "của các mạng {kind} {moves}",
    "trend.same": "đều là {after}% ở độ sâu {first} và độ sâu {last}",
    "trend.rises": "tăng từ {before}% ở độ sâu {first} lên {after}% ở độ sâu {last}",
    "trend.falls": "giảm từ {before}% ở độ sâu {first} xuống {after}% ở độ sâu {last}",
    # -- bảng: tiêu đề cột, ngắt dòng
    "column.depth": "độ sâu",
    "column.kind": "loại",
    "column.parameters": "tham số",
    "column.train_error": "lỗi\nhuấn luyện\ncuối %",
    "column.test_error": "lỗi\nkiểm tra\ncuối %",
    "column.train_loss": "mất mát\nhuấn luyện\ncuối",
    "column.seconds": "giây",
    "column.multiply_adds": "nhân-cộng\nmỗi ảnh",
    "table.final": (
        "Cuối: đo sau epoch cuối cùng, ở chế độ đánh giá. Lỗi tích lũy của từng epoch được đếm ở "
        "chế độ huấn luyện."
    ),
    "table.spread": (
        "Lỗi: trung bình ± độ lệch chuẩn trên các seed đã huấn luyện xong; các cột khác: trung "
        "bình."
    ),
    "table.unfinished": "Chưa có kết quả cuối: {names}.",
    # -- các hình
    "plot.networks": "mạng {kind}",
    "plot.epoch": "epoch",
    "plot.depth": "độ sâu {depth}",
    "plot.protocol": "quy trình {name}, {epochs}, {seeds}",
    "plot.images": "{dataset}, {count:,} ảnh huấn luyện",
    "plot.seeds": "{count} seed (trung bình và khoảng)",
    "curves.title": "Lỗi huấn luyện tích lũy và lỗi kiểm tra theo epoch",
    "curves.y": "lỗi huấn luyện tích lũy, lỗi kiểm tra (%)",
    "curves.train": "huấn luyện (tích lũy)",
    "curves.test": "kiểm tra",
    "curves.stopped": "bị dừng giữa chừng",
    "curves.cut": "trục bị cắt ở {top:g}%",
    "depth.title": "Lỗi cuối theo độ sâu",
    "depth.train": "Lỗi huấn luyện cuối",
    "depth.test": "Lỗi kiểm tra cuối",
    "depth.x": "độ sâu (số tầng có trọng số)",
    "depth.y": "lỗi cuối (%), thang log từ 1% trở lên",
    "norms.title": "Chuẩn gradient của từng tầng",
    "norms.start": "mạng {kind}, đầu huấn luyện",
    "norms.end": "mạng {kind}, cuối huấn luyện",
    "norms.x": "vị trí của tầng: 0 = tích chập đầu tiên, 1 = cuối cùng",
    "norms.y": "‖∂mất mát/∂trọng số‖, thang log",
    "norms.none": "chưa đo lượt nào",
    # -- lời dưới các hình
    "figure": "Hình {number}.",
    "alternative.curves": (
        "Đồ thị đường của lỗi huấn luyện tích lũy và lỗi kiểm tra theo epoch, mỗi loại mạng một ô"
    ),
    "alternative.error_by_depth": (
        "Đồ thị đường của lỗi huấn luyện cuối và lỗi kiểm tra cuối theo độ sâu"
    ),
    "alternative.gradient_norms": (
        "Đồ thị đường của chuẩn gradient từng tầng ở đầu và cuối quá trình huấn luyện"
    ),
    "caption.curves": (
        "Lỗi huấn luyện tích lũy (nét đứt) và lỗi kiểm tra (nét liền) theo epoch, như Hình 6 của "
        "bài báo; mạng càng sâu, đường càng đậm màu. Lỗi huấn luyện tích lũy được đếm ngay trong "
        "epoch, ở chế độ huấn luyện, mỗi batch trước bước cập nhật của chính nó. Nó có thể kết "
        "thúc rất xa lỗi huấn luyện cuối của bảng và của Hình 2, vốn được đo ở chế độ đánh giá. "
        "Lỗi kiểm tra được đo sau mỗi epoch, ở chế độ đánh giá."
    ),
    "caption.seeds": "Đường là trung bình trên {count} seed, dải màu là khoảng giá trị.",
    "caption.depth": (
        "Lỗi huấn luyện cuối và lỗi kiểm tra cuối theo độ sâu. Thang đo tuyến tính đến 1% và "
        "logarit phía trên, để đọc được cả 0% lẫn 90%."
    ),
    "caption.worse": (
        "Mạng {kind} sâu nhất có lỗi huấn luyện cao hơn mạng nông hơn tốt nhất {points:.1f} điểm "
        "phần trăm."
    ),
    "caption.better": (
        "Mạng {kind} sâu nhất có lỗi huấn luyện thấp hơn mạng nông hơn tốt nhất {points:.1f} điểm "
        "phần trăm."
    ),
    "caption.equal": "Mạng {kind} sâu nhất huấn luyện tốt ngang mạng nông hơn tốt nhất.",
    "caption.norms": (
        "Chuẩn của gradient hàm mất mát theo trọng số của từng tầng tích chập, từ tầng đầu đến "
        "tầng cuối, ở đầu và cuối quá trình huấn luyện."
    ),
    "caption.ratio": "{ratio} ở {network}",
    "caption.ratios": (
        "Ở đầu quá trình huấn luyện, tỉ số giữa chuẩn của tầng đầu và của tầng cuối là {ratios}: "
        "lớn hơn 1 nghĩa là gradient lớn dần trên đường lan truyền ngược; nhỏ hơn 1 nhiều nghĩa là "
        "gradient tiêu biến."
    ),
    # -- trang báo cáo
    "page.unfinished": (
        "<strong>Chưa phải mọi lượt huấn luyện đều đã xong.</strong> Chưa có kết quả cuối: "
        "{names}. Chúng vắng mặt trong các con số cuối; đường cong của lượt bị dừng giữa chừng kết "
        "thúc bằng dấu chéo."
    ),
    "page.numbers": "Các con số cuối",
    "page.figures": "Các hình",
    "page.how": "Cách đọc các hình này",
    "page.recipe": "Công thức huấn luyện",
    "page.one_recipe": (
        "Mọi mạng đều được huấn luyện theo cùng công thức này, bất kể loại và độ sâu. {description}"
    ),
    "page.environment": "Môi trường",
    "page.command": "Lệnh:",
    "page.files": (
        "Mọi epoch của mọi lượt huấn luyện nằm trong <code>results.csv</code>, mọi thứ ở trên nằm "
        "trong <code>results.json</code>, cả hai ở cạnh tệp này."
    ),
    "page.one_seed": "Một seed.",
    "page.spread": (
        "Lỗi là trung bình ± độ lệch chuẩn trên các seed đã huấn luyện xong, các cột khác là trung "
        "bình."
    ),
    "page.final": (
        "Cuối: đo sau epoch cuối cùng, mạng ở chế độ đánh giá, trên toàn bộ {train_size:,} ảnh "
        "huấn luyện và {test_size:,} ảnh kiểm tra: một ảnh ứng với {train_image} và {test_image} "
        "điểm phần trăm."
    ),
    "page.degradation": (
        "<strong>Trước hết hãy nhìn lỗi huấn luyện cuối.</strong> Mạng thường là mạng phần dư bị "
        "bỏ các kết nối tắt: cùng các tầng, cùng công thức huấn luyện. Mạng thường sâu hơn biểu "
        "diễn được mọi thứ mà mạng nông hơn biểu diễn được, vì các tầng thêm vào chỉ cần chuyển "
        "tiếp đầu vào nguyên vẹn; vì vậy nếu nó kết thúc với <em>lỗi huấn luyện cuối cao hơn</em> "
        "thì đó không phải là quá khớp (quá khớp là lỗi huấn luyện thấp còn lỗi kiểm tra cao): "
        "thuật toán tối ưu đã không tìm ra một nghiệm vốn tồn tại. He và cộng sự "
        '(<a href="https://arxiv.org/abs/1512.03385">2015, arXiv:1512.03385</a>, mục 4.2 và Hình '
        "6) gọi đó là sự suy thoái (degradation). Có kết nối tắt thì hiện tượng này biến mất. "
        "{degradation}"
    ),
    "page.gradients": (
        "<strong>Sau đó hãy nhìn gradient, một cách thận trọng.</strong> Thủ phạm thường bị nghi "
        "là tiêu biến gradient, nhưng bài báo phản bác điều đó: nhờ chuẩn hóa theo batch, tín hiệu "
        "trong các mạng thường của họ giữ được chuẩn lành mạnh ở cả chiều xuôi lẫn chiều ngược, và "
        "số vòng lặp gấp ba cũng không chữa được. Vì vậy hãy đọc Hình 3 bên cạnh Hình 2 chứ không "
        "thay cho Hình 2; chuẩn gradient của một tầng khác xa các tầng khác cho biết khởi đầu khó "
        "khăn, tự nó chưa nói lên kết cục xấu. Và hãy nhớ quy mô của nghiên cứu này: "
        "{train_size:,} ảnh huấn luyện và {epochs} có thể cho thấy rằng với công thức này một loại "
        "mạng huấn luyện được còn loại kia thì không. Chúng không thể chứng tỏ rằng mạng thường sẽ "
        "không bao giờ đạt tới đó với lịch huấn luyện dài hơn hoặc công thức riêng, lỗi kiểm tra "
        "trên {test_size:,} ảnh thay đổi theo từng bước {test_image} điểm phần trăm, và {luck}"
    ),
    "page.luck": "chỉ với một seed thì không thể biết bao nhiêu phần của chênh lệch là may rủi.",
    "page.some_luck": (
        "{count} seed cho thấy cỡ của độ phân tán nhưng còn quá ít để phân biệt chênh lệch nhỏ."
    ),
    "degraded.unknown": "Nghiên cứu này có quá ít mạng thường đã huấn luyện xong để cho thấy nó.",
    "degraded.clear": (
        "Kết quả ở đây cho thấy điều đó: mạng thường sâu nhất kết thúc với lỗi huấn luyện cuối cao "
        "hơn mạng nông hơn tốt nhất {points:.1f} điểm phần trăm."
    ),
    "degraded.hardly": (
        "Kết quả ở đây hầu như không cho thấy điều đó: mạng thường sâu nhất kết thúc với lỗi huấn "
        "luyện cuối cao hơn mạng nông hơn tốt nhất {points:.1f} điểm phần trăm, có thể chỉ là ngẫu "
        "nhiên."
    ),
    "degraded.no": (
        "Kết quả ở đây không cho thấy điều đó: mạng thường sâu nhất huấn luyện không kém mạng nông "
        "hơn tốt nhất. Cần mạng sâu hơn hoặc dữ liệu khó hơn."
    ),
    # -- công thức và môi trường: tên của những gì có trong results.json
    "recipe.dataset": "tập dữ liệu",
    "recipe.images": "ảnh",
    "recipe.sizes": "{train:,} để huấn luyện, {test:,} để kiểm tra",
    "recipe.shape": "kích thước ảnh",
    "recipe.depths": "độ sâu",
    "recipe.shortcut": "kết nối tắt",
    "recipe.option": "phương án {option} (chỉ mạng phần dư)",
    "recipe.seeds": "seed",
    "recipe.name": "quy trình",
    "recipe.epochs": "số epoch",
    "recipe.batch_size": "kích thước batch",
    "recipe.lr": "tốc độ học",
    "recipe.momentum": "động lượng",
    "recipe.weight_decay": "suy giảm trọng số",
    "recipe.schedule": "lịch tốc độ học",
    "recipe.warmup_epochs": "số epoch khởi động",
    "recipe.warmup_rule": "quy tắc khởi động",
    "recipe.normalize": "chuẩn hóa ảnh",
    "recipe.augment": "tăng cường dữ liệu",
    "recipe.optimizer": "thuật toán tối ưu",
    "recipe.label_smoothing": "làm mịn nhãn",
    "about.quick": (
        "SGD với động lượng; tốc độ học tăng tuyến tính trong giai đoạn khởi động rồi giảm về 0 "
        "theo đường cosin; không tăng cường dữ liệu."
    ),
    "about.paper": (
        "He và cộng sự 2015, mục 4.2: SGD với động lượng, tốc độ học 0.1 chia cho 10 tại 1/2 và "
        "3/4 quá trình huấn luyện (vòng lặp 32k và 48k trong 64k vòng lặp trên CIFAR-10), đệm 4 "
        "điểm ảnh, cắt và lật ngẫu nhiên; từ 110 tầng trở lên dùng 0.01 cho đến khi lỗi huấn luyện "
        "xuống dưới 80 %."
    ),
    "environment.created": "tạo lúc",
    "environment.platform": "nền tảng",
    "environment.threads": "số luồng",
    "environment.ranks": "số tiến trình",
    "environment.device": "thiết bị",
    "unknown": "không rõ",
}
